//! The few items beside logs and rows: devices, starts, members, heads.

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};

use super::DynamoStore;
use super::items::{
    HEAD_SK, ITEM_VERSION, Item, REVOKED_SK, conversation_pk, device_sk, head_item, member_item,
    member_sk, number, read_head, read_member, read_revoked, read_starts, revoked_item,
    starts_item, starts_pk, text, user_pk,
};
use super::retry::{Call, Failure};
use crate::protocol::{ConversationId, DeviceId, UserId};
use crate::store::{Device, Member, Record, RecordPart, StoreError};

impl DynamoStore {
    /// Writes by the rule of the record's kind.
    pub(super) async fn write_record(&self, record: Record) -> Result<bool, StoreError> {
        match record {
            Record::Device(user, device) => self.write_device(&user, &device).await,
            Record::ForgetDevice(user, device) => self.forget_device(&user, &device).await,
            Record::Starts { user, device, chunk, starts } => {
                let item = starts_item(&user, &device, chunk, &starts);
                self.link.put(&Call::write("starts"), self.link.put_item(item)).await?;
                Ok(true)
            }
            Record::Member(conversation, member) => {
                let as_of = Some((":as_of", number(member.as_of)));
                let item = member_item(&conversation, &member);
                let condition = "attribute_not_exists(pk) OR as_of < :as_of";
                self.put_if("member", item, condition, as_of).await
            }
            Record::Head(conversation, head) => {
                let item = head_item(&conversation, &head);
                self.put_if("head", item, "attribute_not_exists(pk)", None).await
            }
            Record::Revoked(user, until) => {
                let condition = "attribute_not_exists(pk) OR notBefore < :until";
                let item = revoked_item(&user, until);
                self.put_if("revoked", item, condition, Some((":until", number(until)))).await
            }
        }
    }

    /// Puts on a condition. Where an earlier try of this very call may have been applied, meeting
    /// one's own item is a success.
    async fn put_if(
        &self,
        operation: &'static str,
        item: Item,
        condition: &str,
        value: Option<(&str, AttributeValue)>,
    ) -> Result<bool, StoreError> {
        let mut put = self
            .link
            .put_item(item.clone())
            .condition_expression(condition)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        if let Some((name, value)) = value {
            put = put.expression_attribute_values(name, value);
        }
        match self.link.put(&Call::write(operation), put).await {
            Ok(()) => Ok(true),
            Err(Failure::Condition { old, doubtful }) => Ok(doubtful && old == Some(item)),
            Err(Failure::Store(error)) => Err(error),
        }
    }

    async fn write_device(&self, user: &UserId, device: &Device) -> Result<bool, StoreError> {
        let update = self
            .link
            .update_item(user_pk(user), device_sk(&device.device))
            .update_expression(
                "SET firstSeen = if_not_exists(firstSeen, :first), lastSeen = :last, v = :v",
            )
            .condition_expression("attribute_not_exists(lastSeen) OR lastSeen < :last")
            .expression_attribute_values(":first", number(device.first_seen))
            .expression_attribute_values(":last", number(device.last_seen))
            .expression_attribute_values(":v", number(ITEM_VERSION));
        match self.link.update(&Call::write("device"), update).await {
            Ok(_) => Ok(true),
            Err(Failure::Condition { old, doubtful }) => {
                let held = old.and_then(|mut old| old.remove("lastSeen"));
                Ok(doubtful && held == Some(number(device.last_seen)))
            }
            Err(Failure::Store(error)) => Err(error),
        }
    }

    /// The starts go first: if this ends half-way, the device is still listed and goes next time.
    async fn forget_device(&self, user: &UserId, device: &DeviceId) -> Result<bool, StoreError> {
        let call = Call::write("forget_device");
        let pk = starts_pk(user, device);
        for item in self.link.pages(&call, self.link.query(pk.clone(), "pk = :pk")).await? {
            if let Some(AttributeValue::S(sk)) = item.get("sk") {
                let delete = self.link.delete_item(pk.clone(), sk.clone());
                self.link.delete(&call, delete).await?;
            }
        }
        let delete = self.link.delete_item(user_pk(user), device_sk(device));
        self.link.delete(&call, delete).await?;
        Ok(true)
    }

    /// Reads what was asked for.
    pub(super) async fn read_records(&self, part: RecordPart) -> Result<Vec<Record>, StoreError> {
        match part {
            RecordPart::Roster(conversation) => {
                let (call, pk) = (Call::read("roster"), conversation_pk(&conversation));
                let query = self
                    .link
                    .query(pk, "pk = :pk AND begins_with(sk, :member)")
                    .expression_attribute_values(":member", text("U#"));
                let member = |item| Ok(Record::Member(conversation.clone(), read_member(item)?));
                self.link.pages(&call, query).await?.into_iter().map(member).collect()
            }
            RecordPart::Head(conversation) => {
                Ok(self.head(&conversation).await?.into_iter().collect())
            }
            RecordPart::Member(conversation, user) => {
                let member = self.member(&conversation, &user).await?;
                Ok(member.map(|member| Record::Member(conversation, member)).into_iter().collect())
            }
            RecordPart::Starts(user, device) => self.starts(user, device).await,
            RecordPart::Revoked(user) => {
                let (call, sk) = (Call::read("revoked"), REVOKED_SK.to_owned());
                let item = self.link.get(&call, user_pk(&user), sk).await?;
                let until = item.map(read_revoked).transpose()?;
                Ok(until.map(|until| Record::Revoked(user, until)).into_iter().collect())
            }
        }
    }

    async fn head(&self, conversation: &ConversationId) -> Result<Option<Record>, StoreError> {
        let pk = conversation_pk(conversation);
        let item = self.link.get(&Call::read("head"), pk, HEAD_SK.to_owned()).await?;
        let head = item.map(read_head).transpose()?;
        Ok(head.map(|head| Record::Head(conversation.clone(), head)))
    }

    async fn member(
        &self,
        conversation: &ConversationId,
        user: &UserId,
    ) -> Result<Option<Member>, StoreError> {
        let (pk, sk) = (conversation_pk(conversation), member_sk(user));
        self.link.get(&Call::read("member"), pk, sk).await?.map(read_member).transpose()
    }

    async fn starts(&self, user: UserId, device: DeviceId) -> Result<Vec<Record>, StoreError> {
        let query = self.link.query(starts_pk(&user, &device), "pk = :pk");
        let items = self.link.pages(&Call::read("starts"), query).await?;
        let mut chunks = items.into_iter().map(read_starts).collect::<Result<Vec<_>, _>>()?;
        chunks.sort_by_key(|(chunk, _)| *chunk);
        let record = |(chunk, starts)| {
            let (user, device) = (user.clone(), device.clone());
            Record::Starts { user, device, chunk, starts }
        };
        Ok(chunks.into_iter().map(record).collect())
    }
}
